/* Hands the session over to the editor's host, before any other script of the page has run.
   Rule: the hand-off code goes by a form posted into the frame, never in an address (DECIDED 16); nothing is imported here. */

const form = document.getElementById("enter");
const frame = document.querySelector(".editor iframe");
const opening = document.querySelector(".opening");
const LONGEST = 60_000;

// Loaded is not drawn yet: the words stay until the editor covers them and says that it is there (workspace.js), or never will.
frame.addEventListener("load", () => {
  opening.querySelector("progress").hidden = true;
  setTimeout(() => { opening.hidden = true; }, LONGEST);
});
form.submit();
