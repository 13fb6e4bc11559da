/** What the loader fetches: all widgets. */
import { style } from "./dom";
import { FileTree } from "./file_tree";
import theme from "./theme.css";
import type { Core, View } from "./types";

const KINDS: Record<string, (view: View) => unknown> = {
  "file-tree": (view) => new FileTree(view),
};

const core: Core = {
  mount(kind, view) {
    style("dm-style", theme, view.el);
    const make = KINDS[kind];
    if (make === undefined) throw new Error(`no widget ${kind}`);
    make(view);
  },
};

export default core;
