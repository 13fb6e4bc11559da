/** Whether the page is light or dark, as its front end says, or else as the reader's system is. */

const SYSTEM = "(prefers-color-scheme: light)";
const SAID_BY = ["data-jp-theme-light", "class", "data-theme", "theme"];

export function light(): boolean {
  const told = document.body.dataset.jpThemeLight;
  if (told !== undefined) return told !== "false";
  if (document.body.classList.contains("vscode-dark") || document.documentElement.dataset.theme === "dark") return false;
  return matchMedia(SYSTEM).matches;
}

/** Call when that may have changed. */
export function onLight(act: () => void, signal: AbortSignal): void {
  const system = matchMedia(SYSTEM);
  system.addEventListener("change", act);
  const themed = new MutationObserver(act);
  for (const one of [document.body, document.documentElement]) {
    themed.observe(one, { attributes: true, attributeFilter: SAID_BY });
  }
  signal.addEventListener("abort", () => {
    system.removeEventListener("change", act);
    themed.disconnect();
  });
}
