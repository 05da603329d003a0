"""The surface: the command line, Hydra, wiring and reports. Nothing below imports from here.

Every way in passes here before torch is loaded: the console script, ``python -m vgen``, ``python -m
vgen.app.VERB`` as torchrun and Lightning start it.
"""

import os

from vgen.app.waiting import wait_asleep

wait_asleep(os.environ)
