"""Git for the notebook: the repository in the sandbox, seen and changed from ``%sandbox_git``.

What the toolbox's git API can do, it does (clone, status, add, commit, push, pull, checkout, reset, restore,
remotes, settings). What it has no call for (diff, log, merge, fetch, who follows whom) is done by the
sandbox's own git, as a command there. The host's git never touches a repository of a sandbox.

``repository`` finds the repository a command is about and runs git in it; ``reading`` asks what is there,
``changing`` changes it, ``talking`` talks to remotes; ``logins`` gets the host's logins for them; ``views``
and ``patches`` draw; ``failures`` says what went wrong and what helps. ``branching``, ``syncing`` and
``parting`` are a notebook's own branch; ``landing`` brings a branch to its base, by GitHub or GitLab
(``projects``, ``forges``, ``forge_kinds``) or by git alone.
"""
