/* Proving again who one is: in a dialog over the page, or on the page that answered a form.
   Rule: this only proves; what was asked for is asked again by whoever asked, and the server looks at all of it anew. */

import { ask, find, Refused } from "./page.js";
import { get, supported } from "./passkeys.js";

let going = null;

/** Show the dialog. Resolves to whether the person proved who they are; several askers share one dialog. */
export function proveAgain() {
  going ??= inDialog().finally(() => { going = null; });
  return going;
}

function inDialog() {
  const dialog = document.getElementById("step-up");
  dialog.returnValue = "";
  find("form", dialog).reset();
  prepare(dialog, () => dialog.close("proved"));
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "proved"), { once: true });
  });
}

/** Wire the ways to prove within `box`; `done` is called once after the server said yes. */
function prepare(box, done) {
  const [button, form] = [find("[data-prove=passkey]", box), find("[data-prove=code]", box)];
  const [fault, mailed] = [find("[data-prove=fault]", box), find("[data-prove=mailed]", box)];
  const tried = async (element, prove) => {
    if (element.hasAttribute("aria-busy")) return;
    element.setAttribute("aria-busy", "true");
    fault.hidden = true;
    try {
      if (await prove() !== "not yet") done();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      find("p", fault).textContent = error.message;
      fault.hidden = false;
    } finally {
      element.removeAttribute("aria-busy");
    }
  };
  button.onclick = () => tried(button, async () => {
    const credential = await get(await ask("POST", "/api/step-up/options"));
    await ask("POST", "/api/step-up/passkey", undefined, { credential });
  });
  form.onsubmit = (event) => {
    event.preventDefault();
    const byMail = event.submitter?.name === "mail";
    tried(event.submitter ?? find("button", form), byMail ? async () => {
      await ask("POST", "/api/step-up/mail");
      mailed.hidden = false;
      form.elements.code.focus();
      return "not yet";
    } : () => ask("POST", "/api/step-up/code", undefined, { code: form.elements.code.value }));
  };
  fault.hidden = mailed.hidden = button.hidden = true;
  offerPasskey(button);
}

/** The button is there for people who have a passkey, in browsers that know of them. */
async function offerPasskey(button) {
  if (!supported) return;
  try {
    const { allowCredentials } = await ask("POST", "/api/step-up/options");
    button.hidden = !allowCredentials.length;
    if (!button.hidden) button.focus();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;  // the code field is still there
  }
}

const page = find("[data-step-up-page]");
if (page) {
  const held = document.getElementById("held");
  prepare(page, () => (held ? held.requestSubmit() : location.assign(page.dataset.target)));
}
