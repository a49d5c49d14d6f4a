"""The command line: `hf-gip`. Only that program imports this package, so that it may set its own way with Ctrl-C."""

from hf_gip.interrupt import install_exit_on_interrupt

install_exit_on_interrupt()
