/** What a reader chose for terminals, kept by the browser. Where it keeps nothing, the usual holds. */

const NAME = "daytona-magics-terminal-";

export function remembered(name: string, usual: number, least: number, most: number): number {
  try {
    const kept = Number(localStorage.getItem(NAME + name) ?? Number.NaN);
    return kept >= least && kept <= most ? kept : usual;
  } catch {
    return usual;
  }
}

export function remember(name: string, value: number): void {
  try {
    localStorage.setItem(NAME + name, String(value));
  } catch (error) {
    console.debug("the browser keeps nothing here", error);
  }
}
