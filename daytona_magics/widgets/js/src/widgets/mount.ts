/** What a bundle exports: how its widgets are put into the page. */
import { style } from "./dom";
import { hideRecord } from "./record";
import theme from "./theme.css";
import type { Core, View } from "./types";

export function coreOf(kinds: Record<string, (view: View) => unknown>): Core {
  return {
    mount(kind, view) {
      style("dm-style", theme, view.el);
      const make = kinds[kind];
      if (make === undefined) throw new Error(`no widget ${kind}`);
      make(view);
      hideRecord(view);
    },
  };
}
