// The question for the token of the server, in a dialog of its own.

import { onTokenNeeded } from "./api.js";

const dialog = document.createElement("dialog");
dialog.id = "token";
dialog.className = "token";
dialog.setAttribute("aria-labelledby", "token-title");
dialog.innerHTML = `<form method="dialog">
<h2 id="token-title">This server needs a token</h2>
<p>Whoever runs the server has it. It is kept until you close this tab.</p>
<label for="token-value">Token</label>
<input id="token-value" type="password" autocomplete="off" required aria-describedby="token-problem">
<p id="token-problem" class="bad" role="alert"></p>
<button type="submit" class="strong">Continue</button>
</form>`;
document.body.append(dialog);

function ask(wasWrong) {
  const input = dialog.querySelector("#token-value");
  dialog.querySelector("#token-problem").textContent = wasWrong
    ? "That is not the token of this server."
    : "";
  input.value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(input.value.trim()), { once: true });
  });
}
// Without a token there is nothing to see.
dialog.addEventListener("cancel", (event) => event.preventDefault());
onTokenNeeded(ask);
