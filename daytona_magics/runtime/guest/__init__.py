"""The guest: the one program of ours that runs inside a sandbox.

``python3 guest.pyz daemon`` starts a detached supervisor (once per sandbox) and answers with one JSON line.
``python3 -I -S guest.pyz attach`` relays bytes between its terminal and the daemon's unix socket, so that a
platform pseudo-terminal becomes a channel to it. The daemon keeps one worker process per Python context,
starts one bash per bash cell, journals every execution's output and sends it to whoever is subscribed.

Standard library only, Python >= 3.8, no import from the rest of the package: it is shipped as one file.
"""

#: Version of the guest; the kernel side uploads another file when it differs.
VERSION = "0.1.0"
