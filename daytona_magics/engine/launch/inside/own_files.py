"""Before packages are upgraded: make files of the host that are to be replaced the sandbox's own.

apt runs this with the names of the package files on its standard input. dpkg keeps a hard link to each file
that it replaces, and the kernel allows no link to a file whose owner does not exist in the sandbox. A copy
under the same name is the sandbox's own and can be linked. Folders are its own already.
"""

import os
import shutil
import stat
import sys

INFO = "/var/lib/dpkg/info"


def lists(package: str) -> "list[str]":
    """The lists of what is installed of `package`, for each of its architectures."""
    return [
        os.path.join(INFO, name)
        for name in os.listdir(INFO)
        if name == package + ".list" or (name.startswith(package + ":") and name.endswith(".list"))
    ]


def own(path: str, user: int) -> None:
    """Replace the file or link `path` by a copy of `user`'s, unless it is that already."""
    try:
        info = os.lstat(path)
        if info.st_uid == user:
            return
        if stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink(path), path + ".dm-own")
        elif stat.S_ISREG(info.st_mode):
            shutil.copy2(path, path + ".dm-own")
        else:
            return
        os.rename(path + ".dm-own", path)
    except OSError as error:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            sys.stderr.write(f"own-files: {path}: {error.strerror}\n")


def main() -> None:
    # getuid answers 0 under sudo; who we are is whom our own process belongs to.
    user = os.stat("/proc/self").st_uid
    for line in sys.stdin:
        package = os.path.basename(line.strip()).partition("_")[0]
        for name in lists(package) if package else ():
            with open(name, encoding="utf-8", errors="surrogateescape") as file:
                for path in file.read().splitlines():
                    own(path, user)


if __name__ == "__main__":
    main()
