"""The way out of a sandbox: a proxy in the engine that resolves, checks, and only then connects.

A sandbox has no route to anywhere. What it has is one address, its proxy's, in the variables that programs
look for one in (`settings`, made from the host's own, which `hostconfig` reads). What a request names is read
strictly (`targets`, `http1`), what it may reach is decided on the resolved address (`policy`), and the
connection goes to the very address that was checked (`dialing`), through the host's own proxy where it has
one (`upstream`). `gate` is the way out of one sandbox, `egress` holds all gates; `relay` is what a gate does
with a connection, and `indexes` serves the host's package indexes without showing their passwords. `peers`
are sandboxes that a sandbox reaches by name; nothing of this leaves the machine.
"""
