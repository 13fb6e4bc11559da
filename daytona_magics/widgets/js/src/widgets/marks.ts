/** The marks behind names: what git says, and what the last cell did. Never by colour alone. */
import { visible } from "./dom";
import type { Folder, Row } from "./folders";
import type { Mark } from "./rows";

const GIT: Record<string, string> = {
  M: "modified",
  A: "added",
  D: "deleted",
  R: "renamed",
  C: "copied",
  T: "of another type",
  U: "in conflict",
  "?": "not in git",
  ".": "changes inside",
};

/** As other editors show them; any other letter stands for itself. */
const SHOWN: Record<string, string> = { ".": "…", "?": "U", U: "!" };

/** The marks of a row. */
export function marks({ folder, entry }: Row): Mark[] {
  if (entry === undefined) return [];
  const found: Mark[] = [];
  const fresh = folder.fresh.get(entry.name);
  if (fresh) {
    const inside = fresh === "changed" && entry.kind === "dir" ? "something in it was changed" : fresh;
    found.push({ text: fresh === "new" ? "new" : "●", title: `${inside} since the last cell`, kind: fresh });
  }
  const letter = folder.git[entry.name] ?? folder.git[""];
  const meaning = letter === undefined ? undefined : GIT[letter];
  if (letter !== undefined && meaning !== undefined) {
    found.push({ text: SHOWN[letter] ?? letter, title: `git: ${meaning}`, kind: letter });
  }
  return found;
}

/** What the last cell did in folders that are open, in words; "" for nothing. */
export function lastCell(folders: Folder[]): string {
  const of = (kind: string) => folders.reduce((sum, one) => sum + [...one.fresh.values()].filter((it) => it === kind).length, 0);
  const gone = folders.flatMap((one) => one.gone);
  const shown = gone.slice(0, 3).map(visible).join(", ") + (gone.length > 3 ? " …" : "");
  const parts = [
    [of("new"), "new", ""],
    [of("changed"), "changed", ""],
    [gone.length, "deleted", ` (${shown})`],
  ] as const;
  const said = parts.filter(([count]) => count > 0).map(([count, word, more]) => `${count} ${word}${more}`);
  return said.length ? `Since the last cell: ${said.join(", ")}` : "";
}
