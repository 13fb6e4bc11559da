/** Files between this computer and the sandbox, in pieces of a megabyte, one after the other. */
import { h, size, visible } from "./dom";
import { CallFailed, type Line } from "./line";

const PIECE = 1 << 20;

interface Dropped {
  file: File;
  path: string;
}

export class Transfers {
  private count = 0;

  constructor(
    private readonly line: Line,
    private readonly say: (text: string, error?: boolean) => void,
  ) {}

  private id(): string {
    this.count += 1;
    return `${Date.now().toString(36)}-${this.count}`;
  }

  /** Send files; each appears whole or not at all. Returns what became of it, and whether that is an error. */
  async upload(files: Dropped[], pathOf: (path: string) => string): Promise<[string, boolean]> {
    let sent = 0;
    for (const { file, path } of files) {
      const id = this.id();
      try {
        for (let start = 0; start === 0 || start < file.size; start += PIECE) {
          const piece = await file.slice(start, start + PIECE).arrayBuffer();
          const last = start + PIECE >= file.size;
          await this.line.call("upload", { id, path: pathOf(path), last }, [piece]);
          this.say(`Uploading ${visible(path)}: ${size(Math.min(start + PIECE, file.size))} of ${size(file.size)}`);
        }
        sent += 1;
      } catch (error) {
        void this.line.call("abort", { id }).catch(() => {});
        return [`${visible(path)} was not uploaded: ${words(error)}`, true];
      }
    }
    return [`Uploaded ${sent} ${sent === 1 ? "file" : "files"}.`, false];
  }

  /** Read a file and hand it to the browser. */
  async download(path: string, name: string): Promise<void> {
    const id = this.id();
    const parts: ArrayBuffer[] = [];
    let got = 0;
    try {
      const { value } = await this.line.call("download", { id, path });
      for (;;) {
        const { value: piece, buffers } = await this.line.call("piece", { id });
        if (piece["last"] === true) break;
        const data = buffers[0];
        if (data === undefined) continue;
        parts.push(data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength) as ArrayBuffer);
        got += data.byteLength;
        this.say(`Downloading ${visible(name)}: ${size(got)} of ${size(Number(value["size"]))}`);
      }
    } catch (error) {
      void this.line.call("abort", { id }).catch(() => {});
      this.say(`${visible(name)} was not downloaded: ${words(error)}`, true);
      return;
    }
    const url = URL.createObjectURL(new Blob(parts, { type: "application/octet-stream" }));
    h("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
    this.say(`Downloaded ${visible(name)}, ${size(got)}.`);
  }

  /** The files of a drop, those in folders included. */
  async dropped(data: DataTransfer | null): Promise<Dropped[]> {
    const entries = [...(data?.items ?? [])].map((item) => item.webkitGetAsEntry?.() ?? null);
    if (entries.some((entry) => entry !== null)) {
      return (await Promise.all(entries.map((entry) => (entry ? below(entry, "") : [])))).flat();
    }
    return [...(data?.files ?? [])].map((file) => ({ file, path: file.name }));
  }
}

function words(error: unknown): string {
  return error instanceof CallFailed && error.hint ? `${error.message} (${error.hint})` : (error as Error).message;
}

async function below(entry: FileSystemEntry, folder: string): Promise<Dropped[]> {
  const path = folder + entry.name;
  if (entry.isFile) {
    const file = await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject));
    return [{ file, path }];
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  const found: Dropped[] = [];
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return found;
    found.push(...(await Promise.all(some.map((one) => below(one, `${path}/`)))).flat());
  }
}
