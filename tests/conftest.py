"""What every test may count on, however the test run itself was started."""

import signal

# A run started in the background by a shell without job control ignores ctrl-C, and so would each
# program that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
