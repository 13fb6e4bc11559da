/**
 * What a program in the sandbox cannot do to the page, or make the page do to the program.
 *
 * xterm.js does not touch the clipboard (OSC 52), moves no window and tells no title by itself. Two things are
 * added. Links are never opened by a click alone: where they lead is shown first. And what programs ask of a
 * terminal (where is the cursor, what are you, which colour is this) is answered by one view, and not again when
 * old output is replayed: a second answer would arrive at the shell as if it had been typed.
 */
import type { Terminal } from "@xterm/xterm";

/** Sequences that a terminal answers: what they end with, and what precedes it. */
const ASKING: { prefix?: string; intermediates?: string; final: string }[] = [
  { final: "c" },
  { prefix: ">", final: "c" },
  { prefix: "=", final: "c" },
  { final: "n" },
  { prefix: "?", final: "n" },
  { prefix: ">", final: "q" },
  { prefix: "?", final: "u" },
  { intermediates: "$", final: "p" },
  { prefix: "?", intermediates: "$", final: "p" },
];
const COLOURS = [4, 10, 11, 12];
/** Clipboard, and what other terminals make of sequences of their own (files, notices, pictures). */
const REFUSED = [9, 50, 52, 99, 777, 1337];

/** Guard a terminal; `answers` says whether it may answer a program just now. */
export function guard(terminal: Terminal, answers: () => boolean): void {
  for (const id of ASKING) terminal.parser.registerCsiHandler(id, () => !answers());
  terminal.parser.registerDcsHandler({ intermediates: "$", final: "q" }, () => !answers());
  for (const number of COLOURS) {
    terminal.parser.registerOscHandler(number, (text) => text.includes("?") && !answers());
  }
  for (const number of REFUSED) terminal.parser.registerOscHandler(number, () => true);
  // Window operations, those included that would have the title typed into the shell.
  terminal.parser.registerCsiHandler({ final: "t" }, () => true);
}

/** Text that is pasted: nothing in it is more than a character, a tab, or the end of a line. */
export function pasteable(text: string): string {
  return text.replace(/\r\n?/g, "\n").replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "");
}
