/** What a reader does to files: new folders, names, deletions, uploads; each asked first where it destroys. */
import { visible } from "./dom";
import type { Folder, Row } from "./folders";
import type { Frame } from "./frame";
import type { Transfers } from "./transfers";

export interface Place {
  /** Read a folder again. */
  reload(folder: Folder): Promise<void>;
  /** Nothing is shown of a file any more. */
  closeLook(): void;
  focus(): void;
}

export class Changes {
  constructor(
    private readonly frame: Frame,
    private readonly transfers: Transfers,
    private readonly place: Place,
  ) {}

  make(folder: Folder): void {
    this.frame.ask.text(`New folder in ${visible(folder.path)}`, "", "Make", async (name) => {
      if (!this.fits(name)) return;
      if (await this.call("make", { path: folder.pathOf(name) })) await this.place.reload(folder);
      this.place.focus();
    });
  }

  rename(row: Row | undefined): void {
    const entry = row?.entry;
    if (row === undefined || entry === undefined || !entry.whole) return;
    this.frame.ask.text(`Rename ${visible(entry.name)} to`, entry.name, "Rename", async (name) => {
      if (!this.fits(name) || name === entry.name) return;
      if (await this.call("rename", { path: row.folder.pathOf(entry.name), to: row.folder.pathOf(name) })) {
        this.place.closeLook();
        await this.place.reload(row.folder);
      }
      this.place.focus();
    });
  }

  remove(row: Row | undefined): void {
    const entry = row?.entry;
    if (row === undefined || entry === undefined || !entry.whole) return;
    const folder = entry.kind === "dir" && entry.target === "";
    const what = folder ? `${visible(entry.name)}/ and everything in it` : visible(entry.name);
    this.frame.ask.confirm(`Delete ${what}?`, "Delete", async () => {
      if (await this.call("remove", { path: row.folder.pathOf(entry.name), folder })) {
        this.place.closeLook();
        row.folder.opened.delete(entry.name);
        await this.place.reload(row.folder);
      }
      this.place.focus();
    });
  }

  async drop(event: DragEvent, folder: Folder): Promise<void> {
    await this.upload(await this.transfers.dropped(event.dataTransfer), folder);
  }

  async upload(files: { file: File; path: string }[], folder: Folder): Promise<void> {
    const there = files.filter(({ path }) => folder.indexOf(path.split("/")[0] ?? "") >= 0).map(({ path }) => path);
    const send = async () => {
      const [told, failed] = await this.transfers.upload(files, (path) => folder.pathOf(path));
      await this.place.reload(folder);
      this.frame.say(told, failed);
    };
    const names = `${there.slice(0, 3).map(visible).join(", ")}${there.length > 3 ? " …" : ""}`;
    if (there.length === 0) await send();
    else this.frame.ask.confirm(`Overwrite ${names}?`, "Overwrite", send);
  }

  private call(name: string, given: Record<string, unknown>): Promise<boolean> {
    return this.frame.act(() => this.frame.line.call(name, given));
  }

  private fits(name: string): boolean {
    if (name !== "" && name !== "." && name !== ".." && !name.includes("/")) return true;
    this.frame.say("A name is needed, without a slash.", true);
    return false;
  }
}
