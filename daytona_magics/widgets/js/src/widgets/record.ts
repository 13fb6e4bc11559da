/** The record that a widget leaves in the notebook is hidden while the widget itself is drawn. */
import { h } from "./dom";
import type { View } from "./types";

export function hideRecord({ model, el, signal }: View): void {
  const key = String(model.get("_control")).replace(/^IPY_MODEL_/, "");
  // An identifier of our own kernel side; anything else would be a rule of somebody else's making.
  if (!/^[\w-]+$/.test(key)) return;
  const record = `.dm-record-${key}`;
  const place = el.getRootNode();
  const sheet = h("style", {}, `${record},.jp-OutputArea-child:has(${record}){display:none!important}`);
  (place instanceof ShadowRoot ? place : document.head).append(sheet);
  signal.addEventListener("abort", () => sheet.remove());
}
