"""The verbs that act on files inside the sandbox, and carry whole trees as archives."""

from __future__ import annotations

from daytona_magics.magics.grammar.terms import LOCAL_PATH, REMOTE_PATH, Argument, Command, Option

_SEVERAL = Argument("paths", "files and folders, and where to: the last one", "+", values=REMOTE_PATH)

VERBS: tuple[Command, ...] = (
    Command(
        "cp",
        "Copy files and folders inside the sandbox.",
        "line_paths:cp",
        (_SEVERAL,),
        examples=("%sandbox cp a.txt b.txt backup/",),
    ),
    Command(
        "mv",
        "Move or rename a file or folder inside the sandbox.",
        "line_paths:mv",
        (_SEVERAL,),
        examples=("%sandbox mv draft.txt final.txt",),
    ),
    Command(
        "rm",
        "Delete files of the sandbox, and folders with -r.",
        "line_paths:rm",
        (Argument("paths", "what to delete", "+", values=REMOTE_PATH),),
        (Option(("-r", "--recursive"), "folders too, with all that is in them"),),
    ),
    Command(
        "mkdir",
        "Make a folder in the sandbox, with the folders it lies in.",
        "line_paths:mkdir",
        (Argument("paths", "folders to make", "+", values=REMOTE_PATH),),
        (Option(("--mode",), "who may do what, in octal digits (default: 755)", "MODE"),),
    ),
    Command(
        "stat",
        "Show size, mode, owner and time of a file or folder of the sandbox.",
        "line_paths:stat",
        (Argument("path", "file or folder", values=REMOTE_PATH),),
    ),
    Command(
        "chmod",
        "Change who may do what with files of the sandbox.",
        "line_paths:chmod",
        (
            Argument("mode", "octal digits, like 755"),
            Argument("paths", "files and folders", "+", values=REMOTE_PATH),
        ),
    ),
    Command(
        "chown",
        "Change whose files of the sandbox are.",
        "line_paths:chown",
        (
            Argument("owner", "OWNER, OWNER:GROUP or :GROUP"),
            Argument("paths", "files and folders", "+", values=REMOTE_PATH),
        ),
    ),
    Command(
        "replace",
        "Replace a text by another in files of the sandbox.",
        "line_paths:replace",
        (
            Argument("old", "the text to look for"),
            Argument("new", "what comes in its place"),
            Argument("paths", "the files", "+", values=REMOTE_PATH),
        ),
        examples=("%sandbox replace 'v1.0' 'v1.1' README.md setup.cfg",),
    ),
    Command(
        "find",
        "Find files of the sandbox by name.",
        "line_paths:find",
        (
            Argument("pattern", "a name with * and ?, like '*.csv'"),
            Argument(
                "path", "folder to look in (default: the home folder)", "?", values=REMOTE_PATH, default="~"
            ),
        ),
        examples=("%sandbox find '*.csv' data",),
    ),
    Command(
        "grep",
        "Find lines with a text in files of the sandbox.",
        "line_paths:grep",
        (
            Argument("pattern", "the text"),
            Argument(
                "path",
                "file, or folder to look in (default: the home folder)",
                "?",
                values=REMOTE_PATH,
                default="~",
            ),
        ),
        examples=("%sandbox grep TODO src",),
    ),
    Command(
        "export",
        "Save a folder of the sandbox as a compressed archive on this machine.",
        "line_paths:export",
        (
            Argument("path", "file or folder of the sandbox", values=REMOTE_PATH),
            Argument("file", "the archive to write (.tar.gz)", values=LOCAL_PATH),
        ),
        (Option(("-f", "--force"), "overwrite a file that exists"),),
        examples=("%sandbox export workspace winner.tar.gz",),
    ),
    Command(
        "import",
        "Unpack an archive of this machine into a folder of the sandbox.",
        "line_paths:import_",
        (
            Argument("file", "tar archive (.tar, .tar.gz, .tar.bz2, .tar.xz)", values=LOCAL_PATH),
            Argument("path", "folder of the sandbox; made if it is not there", values=REMOTE_PATH),
        ),
        examples=("%sandbox import winner.tar.gz workspace",),
    ),
)
