/**
 * One tab: an xterm.js terminal, fed with numbered bytes.
 *
 * How far it has shown them is told to the kernel, which sends no more than a window ahead. A number that is not the
 * expected one, or a backlog that only a stalled page can have, makes it start over from what the kernel keeps.
 */
import { FitAddon } from "@xterm/addon-fit";
import { SearchAddon } from "@xterm/addon-search";
import { Terminal } from "@xterm/xterm";
import { CONTRAST, DARK, FONT, LIGHT } from "../terminal_look";
import { h, visible } from "./dom";
import { guard, pasteable } from "./terminal_guard";

/** What the kernel says of a tab. */
export interface Told {
  id: number;
  name: string;
  state: "opening" | "running" | "lost" | "cut" | "ended" | "stopped";
  said: string;
  code: number | null;
  cols: number;
  rows: number;
}

/** What a tab needs of the widget around it. */
export interface Around {
  speaks(): boolean;
  typed(tab: number, bytes: Uint8Array): void;
  shown(tab: number, at: number): void;
  lostPlace(tab: number): void;
  changed(tab: number): void;
  leave(): void;
  find(): void;
  askPaste(question: string, act: () => void): void;
  askLink(address: string): void;
  options(): { fontSize: number; screenReaderMode: boolean };
}

const REPORT_AFTER = 32 * 1024;
const TOO_FAR_BEHIND = 4 * 1024 * 1024;
const LARGE_PASTE = 64 * 1024;
const LEAST_COLS = 10;
const LEAST_ROWS = 2;

const encoder = new TextEncoder();

export class Screen {
  readonly host = h("div", { class: "dm-xterm" });
  readonly terminal: Terminal;
  readonly search = new SearchAddon();
  title = "";
  private readonly fit = new FitAddon();
  private expected: number | undefined;
  private written = 0;
  private unreported = 0;
  private replaying = false;
  private opened = false;

  constructor(
    public told: Told,
    private readonly around: Around,
  ) {
    this.terminal = new Terminal({
      ...around.options(),
      cols: told.cols || 80,
      rows: told.rows || 24,
      cursorBlink: true,
      fontFamily: FONT,
      minimumContrastRatio: CONTRAST,
      scrollback: 10_000,
      allowProposedApi: true,
      linkHandler: { activate: (_, address) => around.askLink(address), allowNonHttpProtocols: false },
    });
    this.terminal.loadAddon(this.fit);
    this.terminal.loadAddon(this.search);
    guard(this.terminal, () => !this.replaying && around.speaks());
    this.terminal.onData((text) => this.typed(encoder.encode(text)));
    // What is no text, such as the mouse's old reports: each character is one byte.
    this.terminal.onBinary((text) => this.typed(Uint8Array.from(text, (letter) => letter.charCodeAt(0))));
    this.terminal.onTitleChange((title) => {
      this.title = visible(title).slice(0, 120);
      around.changed(told.id);
    });
    this.terminal.attachCustomKeyEventHandler((event) => this.key(event));
    this.host.addEventListener("paste", (event) => this.pasted(event), { capture: true });
    // The notebook listens further up for shortcuts of its own.
    this.host.addEventListener("keydown", (event) => event.stopPropagation());
  }

  // -- bytes ---------------------------------------------------------------------------------------------------------

  /** Start over with what the kernel keeps. */
  replay(missing: number, at: number, modes: Uint8Array, kept: Uint8Array): void {
    this.expected = at;
    this.unreported = 0;
    // Everything in order behind what is still to be parsed: a reset that ends any sequence, then what is kept.
    this.terminal.write("\x18\x1bc", () => {
      this.replaying = true;
    });
    const lost = missing > 0 ? `\x1b[2m[${missing.toLocaleString()} earlier bytes are not kept]\x1b[0m\r\n` : "";
    this.terminal.write(lost);
    this.terminal.write(modes);
    this.terminal.write(kept, () => {
      this.replaying = false;
      this.around.shown(this.told.id, at);
      this.around.changed(this.told.id);
    });
  }

  /** The next bytes. */
  feed(at: number, bytes: Uint8Array): void {
    if (this.expected === undefined) return;
    if (at !== this.expected || this.written > TOO_FAR_BEHIND) {
      this.expected = undefined;
      this.around.lostPlace(this.told.id);
      return;
    }
    const end = (this.expected = at + bytes.length);
    this.written += bytes.length;
    this.terminal.write(bytes, () => {
      this.written -= bytes.length;
      this.unreported += bytes.length;
      if (this.unreported >= REPORT_AFTER) {
        this.unreported = 0;
        this.around.shown(this.told.id, end);
      }
      this.around.changed(this.told.id);
    });
  }

  private typed(bytes: Uint8Array): void {
    this.around.typed(this.told.id, bytes);
  }

  // -- keys and pastes -----------------------------------------------------------------------------------------------

  private key(event: KeyboardEvent): boolean {
    const command = event.ctrlKey || event.metaKey;
    if (!command || event.altKey) return true;
    const key = event.key.toLowerCase();
    if (event.shiftKey && key === "arrowup") {
      if (event.type === "keydown") this.around.leave();
      event.preventDefault();
      return false;
    }
    // A program that has the whole screen has a use of its own for the key; with Shift it is never the program's.
    if (key === "f" && (event.shiftKey || this.terminal.buffer.active.type === "normal")) {
      if (event.type === "keydown") this.around.find();
      event.preventDefault();
      return false;
    }
    // The browser's own paste follows; here is nothing to do.
    if (key === "v") return false;
    if (key === "c" && (event.shiftKey || event.metaKey || this.terminal.hasSelection())) {
      if (event.type === "keydown") this.copy();
      event.preventDefault();
      return false;
    }
    return true;
  }

  /** Copy what is selected. */
  copy(): void {
    const text = this.terminal.getSelection();
    if (!text) return;
    // The event that follows takes the selection along; where it does not come, the newer interface does.
    if (!document.execCommand("copy")) void navigator.clipboard?.writeText(text);
    this.terminal.clearSelection();
  }

  private pasted(event: ClipboardEvent): void {
    event.preventDefault();
    event.stopPropagation();
    this.paste(event.clipboardData?.getData("text/plain") ?? "");
  }

  /** Type a text, after a question when it could run several commands, or is large. */
  paste(text: string): void {
    const clean = pasteable(text);
    if (!clean) return;
    const lines = clean.split("\n").length;
    const act = () => {
      this.terminal.paste(clean);
      this.terminal.focus();
    };
    if (clean.length > LARGE_PASTE) {
      this.around.askPaste(`Paste ${clean.length.toLocaleString()} characters?`, act);
    } else if (lines > 1 && !this.terminal.modes.bracketedPasteMode) {
      this.around.askPaste(`Paste ${lines} lines? The program may run each as it comes.`, act);
    } else act();
  }

  // -- look ----------------------------------------------------------------------------------------------------------

  /** Put it into the page, where it is measured. */
  open(): void {
    if (this.opened || this.host.clientWidth === 0) return;
    this.opened = true;
    this.terminal.open(this.host);
    const area = this.terminal.textarea;
    // On the element that has the focus itself: the notebook looks there.
    area?.setAttribute("data-lm-suppress-shortcuts", "true");
    area?.setAttribute("aria-label", "Terminal input. Control Shift Up leaves the terminal.");
  }

  /** The size that fills its place; undefined while that is hidden or too small. */
  proposed(): { cols: number; rows: number } | undefined {
    if (!this.opened || this.host.clientWidth === 0) return undefined;
    const size = this.fit.proposeDimensions();
    if (size === undefined || !(size.cols >= LEAST_COLS && size.rows >= LEAST_ROWS)) return undefined;
    return size;
  }

  resize(cols: number, rows: number): void {
    if (cols > 0 && rows > 0 && (cols !== this.terminal.cols || rows !== this.terminal.rows)) {
      this.terminal.resize(cols, rows);
    }
  }

  look(light: boolean): void {
    this.terminal.options = { ...this.around.options(), theme: light ? LIGHT : DARK };
  }

  /** The lines on the screen. */
  lines(): string[] {
    const { buffer, rows } = this.terminal;
    return Array.from({ length: rows }, (_, row) =>
      buffer.active.getLine(buffer.active.viewportY + row)?.translateToString(true) ?? "");
  }

  dispose(): void {
    this.terminal.dispose();
    this.host.remove();
  }
}

/** A buffer of a message as bytes; none is empty. */
export function bytes(view: DataView | undefined): Uint8Array {
  if (view === undefined) return new Uint8Array();
  return new Uint8Array(view.buffer as ArrayBuffer, view.byteOffset, view.byteLength);
}
