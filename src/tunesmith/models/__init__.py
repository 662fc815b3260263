"""Base models and the parameters that learn on them."""

import logging

# PEFT imports bitsandbytes where it is installed, which then notes that it lacks an optional kernel.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
