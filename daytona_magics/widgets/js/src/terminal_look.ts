/** How terminals look: colours that can be read on a light and on a dark ground, and the letters. */

export const FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace";

export const DARK = {
  background: "#111316",
  foreground: "#e6e6e6",
  cursor: "#e6e6e6",
  cursorAccent: "#111316",
  selectionBackground: "#3f5a7d",
  red: "#f47067",
  blue: "#6cb6ff",
  magenta: "#d2a8ff",
};

/** Whatever colours a program picks, its text is told apart from the ground at least so well. */
export const CONTRAST = 4.5;

export const LIGHT = {
  background: "#ffffff",
  foreground: "#1f2328",
  cursor: "#1f2328",
  cursorAccent: "#ffffff",
  selectionBackground: "#b6d3f5",
  black: "#24292f",
  white: "#57606a",
  brightWhite: "#3b4148",
  yellow: "#7d5a00",
  brightYellow: "#8f6a00",
  green: "#116329",
  brightGreen: "#1a7f37",
  blue: "#0550ae",
  brightBlue: "#0969da",
  brightMagenta: "#8250df",
  cyan: "#1b6c74",
  brightCyan: "#2a7d85",
};
