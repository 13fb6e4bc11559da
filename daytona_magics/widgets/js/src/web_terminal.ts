/**
 * The page of the web terminal: xterm.js on a WebSocket to a shell in the sandbox.
 *
 * Bytes travel in binary messages, both ways. Text messages are JSON: the size of the terminal and how many
 * bytes have been shown go out ({"type": "resize"}, {"type": "shown"}), news of the shell comes in
 * ({"type": "control"}). The engine sends no more than a certain amount that has not been shown, and lets the
 * shell wait meanwhile, so a program that prints without end neither fills this page's memory nor loses a line.
 */
import { FitAddon } from "@xterm/addon-fit";
import { Terminal } from "@xterm/xterm";
import style from "@xterm/xterm/css/xterm.css";
import { CONTRAST, DARK, FONT, LIGHT } from "./terminal_look";

/** Bytes after which the engine is told what has been shown. */
const REPORT_AFTER = 64 * 1024;

const place = document.getElementById("terminal") as HTMLElement;
const sheet = document.createElement("style");
sheet.textContent = style;
document.head.append(sheet);

const light = matchMedia("(prefers-color-scheme: light)");
const terminal = new Terminal({
  cursorBlink: true,
  fontFamily: FONT,
  fontSize: 14,
  minimumContrastRatio: CONTRAST,
  scrollback: 10_000,
  theme: light.matches ? LIGHT : DARK,
});
const fit = new FitAddon();
terminal.loadAddon(fit);
terminal.open(place);
fit.fit();
light.addEventListener("change", () => {
  terminal.options.theme = light.matches ? LIGHT : DARK;
});

let socket: WebSocket | undefined;

function tell(message: object): void {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function connect(): void {
  const address = new URL("ws", location.href.replace(/[?#].*$/, ""));
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  address.search = `cols=${terminal.cols}&rows=${terminal.rows}`;
  const opened = new WebSocket(address);
  opened.binaryType = "arraybuffer";
  socket = opened;
  let unreported = 0;
  opened.onmessage = ({ data }: MessageEvent<ArrayBuffer | string>) => {
    if (typeof data === "string") {
      // The first thing that is said: the shell is there.
      place.dataset.state = "connected";
      return;
    }
    terminal.write(new Uint8Array(data), () => {
      unreported += data.byteLength;
      if (unreported < REPORT_AFTER) return;
      if (opened === socket) tell({ type: "shown", bytes: unreported });
      unreported = 0;
    });
  };
  opened.onclose = ({ reason }) => {
    socket = undefined;
    place.dataset.state = "ended";
    terminal.write(`\r\n\x1b[2m[${ending(reason)}; press Enter for a new shell]\x1b[0m\r\n`);
  };
}

function ending(reason: string): string {
  try {
    const { exitCode, exitReason } = JSON.parse(reason) as { exitCode: number; exitReason?: string };
    return exitReason ? `the shell ended: ${exitReason}` : `the shell ended with exit code ${exitCode}`;
  } catch {
    return reason || "the connection is gone";
  }
}

const encoder = new TextEncoder();

terminal.onData((text) => {
  if (socket?.readyState === WebSocket.OPEN) socket.send(encoder.encode(text));
  else if (socket === undefined && text === "\r") connect();
});
// What is no text, such as the mouse's old reports: each character is one byte.
terminal.onBinary((text) => {
  if (socket?.readyState === WebSocket.OPEN) socket.send(Uint8Array.from(text, (letter) => letter.charCodeAt(0)));
});
terminal.onResize(({ cols, rows }) => tell({ type: "resize", cols, rows }));
terminal.onTitleChange((title) => {
  document.title = title || place.dataset.title || "Terminal";
});
new ResizeObserver(() => fit.fit()).observe(place);
terminal.focus();
connect();
