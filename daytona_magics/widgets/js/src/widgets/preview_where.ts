/**
 * Where a preview is found from this page, and whether it may be shown in a frame here.
 *
 * A preview of the embedded engine has two addresses: a host name of its own below localhost, which only a browser
 * on the kernel's machine reaches; and a path below the notebook server, which the notebook's page always reaches,
 * and which shares the notebook's origin, so it is shown without one. That path is the server extension's of this
 * package, or else jupyter-server-proxy's, which refuses what a page without an origin loads. Which of them leads
 * there is asked: the engine answers 204 to whoever knows the token. The cloud's addresses lead there from
 * everywhere.
 */

/** What the kernel tells of a signed address. */
export interface Address {
  url: string;
  /** Port of the engine's listener, and the path below a proxy to it; 0 and "" for the cloud. */
  listener: number;
  below: string;
}

/** What a page knows of itself. */
export interface Here {
  origin: string;
  protocol: string;
  hostname: string;
  /** The notebook server's base URL; "" where there is no such server. */
  base: string;
}

/** Where the preview's root is. */
export interface Place {
  root: string;
  /** It has an origin of its own there. */
  own: boolean;
  /** What the page loads may be refused on the way. */
  bare: boolean;
}

export type Greet = (url: string) => Promise<boolean>;

const LOOPBACK = /^(localhost|.*\.localhost|127(\.\d{1,3}){3}|\[::1\])$/;

export function here(): Here {
  const { origin, protocol, hostname } = window.location;
  return { origin, protocol, hostname, base: base() };
}

/** The notebook server's base URL, as JupyterLab and Notebook 7 put it into their pages. */
function base(): string {
  try {
    const text = document.getElementById("jupyter-config-data")?.textContent ?? "{}";
    const said = (JSON.parse(text) as { baseUrl?: unknown }).baseUrl;
    return typeof said === "string" ? said : "";
  } catch {
    return "";
  }
}

/** Whether a listener at this address knows the token in it. */
export async function greet(url: string): Promise<boolean> {
  try {
    return (await fetch(url, { cache: "no-store", redirect: "error" })).status === 204;
  } catch {
    return false;
  }
}

/** The place of a preview as this page reaches it; undefined when no way leads there. */
export async function find(address: Address, page: Here, ask: Greet = greet): Promise<Place | undefined> {
  if (address.listener === 0) return { root: address.url, own: true, bare: false };
  const greeting = address.below.replace(/\/\d+\/$/, "");
  const web = page.protocol === "http:" || page.protocol === "https:";
  if (!web || LOOPBACK.test(page.hostname)) {
    const direct = new URL(address.url);
    // This name needs no lookup, so the answer does not depend on how the browser resolves names.
    direct.hostname = "127.0.0.1";
    if (await ask(`${direct.origin}${greeting}`)) return { root: address.url, own: true, bare: false };
  }
  if (web && page.base !== "") {
    const server = `${page.origin}${page.base}`;
    for (const [way, bare] of [["daytona-magics", false], [`proxy/${address.listener}`, true]] as const) {
      if (await ask(server + way + greeting)) return { root: server + way + address.below, own: false, bare };
    }
  }
  return undefined;
}

/** What the headers of a page say about frames. */
export interface Framing {
  frame_options: string;
  ancestors: string[] | null;
}

/** Why the browser will refuse to show a page in a frame here; "" when it will not. */
export function refusal(framing: Framing, place: Place, page: Here): string {
  if (framing.ancestors !== null) {
    const allowed = framing.ancestors.some((source) => allows(source, place, page));
    return allowed ? "" : `frame-ancestors ${framing.ancestors.join(" ") || "(nothing)"}`;
  }
  const option = framing.frame_options.trim().toUpperCase();
  if (option === "DENY" || (option === "SAMEORIGIN" && place.own)) return `X-Frame-Options: ${option}`;
  return "";
}

function allows(source: string, place: Place, page: Here): boolean {
  const said = source.toLowerCase();
  if (said === "*") return true;
  if (said === "'self'") return !place.own;
  if (/^[a-z][a-z0-9+.-]*:$/.test(said)) return said === page.protocol;
  const match = /^(?:([a-z][a-z0-9+.-]*):\/\/)?(\*|(?:\*\.)?[a-z0-9.-]+|\[[0-9a-f:]+\])(?::(\d+|\*))?$/.exec(said);
  // A page without an address of its own matches no address.
  if (match === null || !URL.canParse(page.origin)) return false;
  const [, scheme, host = "", port] = match;
  const mine = new URL(page.origin);
  const standard: Record<string, string> = { "http:": "80", "https:": "443" };
  const number = mine.port || (standard[mine.protocol] ?? "");
  if (scheme !== undefined && `${scheme}:` !== mine.protocol && !(scheme === "http" && mine.protocol === "https:")) {
    return false;
  }
  if (port !== "*" && (port ?? standard[mine.protocol]) !== number) return false;
  if (host === "*") return true;
  return host.startsWith("*.") ? mine.hostname.endsWith(host.slice(1)) : mine.hostname === host;
}

/** Whether a browser refuses to load an address into this page because it is not encrypted. */
export function mixed(place: Place, page: Here): boolean {
  const url = new URL(place.root);
  return page.protocol === "https:" && url.protocol === "http:" && !LOOPBACK.test(url.hostname);
}
