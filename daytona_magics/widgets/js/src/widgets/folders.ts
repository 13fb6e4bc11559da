/**
 * What is known of the tree: folders with as many of their entries as have been fetched.
 *
 * A folder of a hundred thousand entries is a number and a few pages. Rows are counted through open folders, so
 * that a row's place on the screen leads to its folder and entry without a list of all rows.
 */

export interface Entry {
  name: string;
  kind: string;
  size: number;
  modified: number;
  mode: string;
  target: string;
  /** False: its name is no text, so no path leads there. */
  whole: boolean;
}

export interface Page {
  path: string;
  total: number;
  hidden: number;
  more: boolean;
  offset: number;
  rows: [string, string, number, number, string, string, boolean][];
}

/** What the kernel says of a folder besides its entries (`listing.Marks`). */
export interface Remarks {
  branch: string;
  git: Record<string, string>;
  changed: string[];
}

/** One row: an entry of a folder, or a place whose entry has not come yet. */
export interface Row {
  folder: Folder;
  index: number;
  depth: number;
  entry: Entry | undefined;
}

export interface Snapshot {
  seen: Map<string, string>;
  whole: boolean;
}

export const PAGE = 200;

export class Folder {
  total = 0;
  hidden = 0;
  more = false;
  loaded = false;
  /** What kept it from being listed. */
  failed = "";
  readonly opened = new Map<string, Folder>();
  private readonly entries = new Map<number, Entry>();
  private readonly places = new Map<string, number>();
  private readonly asked = new Set<number>();
  private stale = false;
  branch = "";
  git: Record<string, string> = {};
  /** Names that the last cell made or changed; those that it deleted. */
  readonly fresh = new Map<string, "new" | "changed">();
  gone: string[] = [];
  /** As it was before the cell whose changes the next reading shows. */
  next: Snapshot | undefined;

  constructor(
    public path: string,
    readonly parent: Folder | undefined = undefined,
  ) {}

  at(index: number): Entry | undefined {
    return this.entries.get(index);
  }

  pathOf(name: string): string {
    return this.path === "/" ? `/${name}` : `${this.path}/${name}`;
  }

  /** The pages that hold rows `from` to `to` and have not been asked for; they count as asked for now. */
  missing(from: number, to: number): number[] {
    const pages: number[] = [];
    for (let page = Math.floor(from / PAGE); page * PAGE <= to; page += 1) {
      if (!this.asked.has(page)) {
        this.asked.add(page);
        pages.push(page * PAGE);
      }
    }
    return pages;
  }

  take(page: Page): void {
    if (this.stale) {
      this.entries.clear();
      this.places.clear();
      this.stale = false;
    }
    this.path = page.path;
    this.loaded = true;
    this.failed = "";
    this.total = page.total;
    this.hidden = page.hidden;
    this.more = page.more;
    page.rows.forEach(([name, kind, size, modified, mode, target, whole], place) => {
      this.entries.set(page.offset + place, { name, kind, size, modified, mode, target, whole });
      this.places.set(name, page.offset + place);
    });
    if (this.next && page.offset === 0) {
      this.compare(this.next);
      this.next = undefined;
    }
  }

  /** Read it again; until that has come the old entries are shown, and folders that are open stay open. */
  forget(): void {
    this.stale = true;
    this.asked.clear();
  }

  /** Its entries as they are known now, and whether those are all. */
  snapshot(): Snapshot {
    const seen = new Map([...this.entries.values()].map((one) => [one.name, `${one.modified} ${one.size}`]));
    return { seen, whole: this.loaded && !this.failed && seen.size === this.total };
  }

  /** What is different from before a cell ran. */
  compare(before: Snapshot): void {
    const now = this.snapshot();
    this.fresh.clear();
    this.gone = now.whole && before.whole ? [...before.seen.keys()].filter((name) => !now.seen.has(name)) : [];
    for (const [name, state] of now.seen) {
      const old = before.seen.get(name);
      if (old === undefined && before.whole) this.fresh.set(name, "new");
      else if (old !== undefined && old !== state) this.fresh.set(name, "changed");
    }
  }

  remark(said: Remarks): void {
    this.branch = said.branch;
    this.git = said.git;
    for (const name of said.changed) if (!this.fresh.has(name)) this.fresh.set(name, "changed");
  }

  indexOf(name: string): number {
    return this.places.get(name) ?? -1;
  }

  /** Open folders with the rows they stand behind, in order. */
  private open(): [number, Folder][] {
    const found: [number, Folder][] = [];
    for (const [name, folder] of this.opened) {
      const index = this.indexOf(name);
      if (index >= 0) found.push([index, folder]);
    }
    return found.sort((a, b) => a[0] - b[0]);
  }

  /** Rows of this folder and of all that are open below. */
  count(): number {
    return this.open().reduce((sum, [, folder]) => sum + folder.count(), this.total);
  }

  /** The row at a place of the whole. */
  row(place: number, depth = 1): Row | undefined {
    let left = place;
    let index = 0;
    for (const [at, folder] of this.open()) {
      const before = at - index + 1;
      if (left < before) break;
      left -= before;
      index = at + 1;
      const inside = folder.count();
      if (left < inside) return folder.row(left, depth + 1);
      left -= inside;
    }
    index += left;
    return index < this.total ? { folder: this, index, depth, entry: this.at(index) } : undefined;
  }

  /** The place of an entry of a folder in the whole, counted from this folder; -1 when it is not shown. */
  place(folder: Folder, index: number): number {
    let sum = 0;
    let next = 0;
    for (const [at, inner] of this.open()) {
      if (folder === this && index <= at) break;
      sum += at - next + 1;
      next = at + 1;
      if (folder !== this) {
        const inside = inner.place(folder, index);
        if (inside >= 0) return sum + inside;
      }
      sum += inner.count();
    }
    return folder === this ? sum + index - next : -1;
  }
}
