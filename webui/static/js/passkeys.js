/* Passkeys in the browser: what the server asks for, to the authenticator, and what that says, back.
   Rule: what goes to the server is what the authenticator said, byte for byte; nothing is decided here. */

import { ask, complain, find, findAll, Refused } from "./page.js";
import { t } from "./text.js";

// Challenges last five minutes (appliance/identity/challenges.py); an offer that waits in a field is made anew before that.
const RENEW_MS = 4 * 60_000;
let waiting = null;

export const supported = Boolean(window.PublicKeyCredential && navigator.credentials?.get);

const bytes = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (char) => char.charCodeAt(0));
const text = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)))
  .replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
const known = (list) => list.map((each) => ({ ...each, id: bytes(each.id) }));

/** Have a passkey made. Throws Refused with words when the person or the device says no. */
export async function create(options) {
  const publicKey = {
    ...options, challenge: bytes(options.challenge), user: { ...options.user, id: bytes(options.user.id) },
    excludeCredentials: known(options.excludeCredentials),
  };
  const made = await asked(() => navigator.credentials.create({ publicKey }));
  return described(made, {
    clientDataJSON: text(made.response.clientDataJSON),
    attestationObject: text(made.response.attestationObject),
    transports: made.response.getTransports?.() ?? [],
  });
}

/** Have a challenge signed by one of the person's passkeys. `more` goes to the browser, such as `mediation`. */
export async function get(options, more = {}) {
  const publicKey = { ...options, challenge: bytes(options.challenge), allowCredentials: known(options.allowCredentials) };
  const found = await asked(() => navigator.credentials.get({ publicKey, ...more }));
  return described(found, {
    clientDataJSON: text(found.response.clientDataJSON),
    authenticatorData: text(found.response.authenticatorData),
    signature: text(found.response.signature),
    ...(found.response.userHandle ? { userHandle: text(found.response.userHandle) } : {}),
  });
}

const described = (credential, response) =>
  ({ id: credential.id, rawId: text(credential.rawId), type: credential.type, response });

async function asked(doing) {
  try {
    const credential = await doing();
    if (credential) return credential;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error.name === "InvalidStateError") throw new Refused(0, t("fault.passkey_here"));
    if (error.name !== "NotAllowedError") throw new Refused(0, t("fault.passkey_device"));
  }
  throw new Refused(0, t("fault.passkey_cancelled"));
}

/** Say what went wrong beside what was tried, or as a toast where the page has no place for it. */
export function tell(error) {
  if (!(error instanceof Refused)) throw error;
  const box = find("[data-passkey-fault]");
  if (!box) return complain(error);
  find("p", box).textContent = error.message;
  box.hidden = false;
  return undefined;
}

async function add(form) {
  const button = find("button", form);
  button.setAttribute("aria-busy", "true");
  try {
    const credential = await create(await ask("POST", "/api/passkeys/options"));
    await ask("POST", "/api/passkeys", undefined, { credential, name: form.elements.name?.value ?? "" });
    location.reload();
  } catch (error) {
    tell(error);
  } finally {
    button.removeAttribute("aria-busy");
  }
}

async function signIn(more = {}) {
  const options = await ask("POST", "/api/sign-in/passkey/options");
  const credential = await get(options, more);
  const remember = Boolean(find("[name=remember]")?.checked);
  const { next } = await ask("POST", "/api/sign-in/passkey", undefined, { credential, remember });
  location.assign(next);
}

/** Offer passkeys where the browser fills in names, until the button is used or the page is left. */
async function offerInField() {
  if (!find("input[autocomplete~=webauthn]") || !(await PublicKeyCredential.isConditionalMediationAvailable?.())) return;
  waiting = new AbortController();
  const again = setTimeout(() => { waiting.abort(); offerInField(); }, RENEW_MS);
  try {
    await signIn({ mediation: "conditional", signal: waiting.signal });
  } catch (error) {
    clearTimeout(again);
    if (error.name !== "AbortError") tell(error);
  }
}

async function onButton(button) {
  waiting?.abort();
  button.setAttribute("aria-busy", "true");
  try {
    await signIn();
  } catch (error) {
    tell(error);
    offerInField();
  } finally {
    button.removeAttribute("aria-busy");
  }
}

if (supported) {
  findAll("[data-needs-passkeys]").forEach((element) => { element.hidden = false; });
  findAll("[data-without-passkeys]").forEach((element) => { element.hidden = true; });
  find("form[data-passkey=add]")?.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!find("[aria-busy]", event.target)) add(event.target);
  });
  const button = find("[data-passkey=sign-in]");
  button?.addEventListener("click", () => button.hasAttribute("aria-busy") || onButton(button));
  if (button) offerInField();
}
