// The page Queue: keys, drafts, differences as one types, and keeping the row on the screen.
// What comes back from the server is put in as text, never as markup.
"use strict";

(() => {
  const at = (id) => document.getElementById(id);
  const row = at("row");
  const text = at("text");
  const csrf = document.body.dataset.csrf;
  let timer = 0;
  let leaving = false;

  async function send(what, values) {
    const body = new URLSearchParams({ row: row.dataset.row, ...values });
    const headers = { "X-CSRF-Token": csrf, Accept: "application/json" };
    const answer = await fetch(`${row.dataset.at}/${what}`, { method: "POST", body, headers });
    return { status: answer.status, said: await answer.json() };
  }

  function trouble(words) {
    if (leaving) return;
    at("trouble").textContent = words;
    at("trouble").hidden = !words;
  }

  // -- the field ----------------------------------------------------------------------------

  const changed = () => text.value.trim() !== text.dataset.base.trim();

  function showButtons() {
    if (!at("save")) return;
    at("save").disabled = !changed();
    at("accept").disabled = changed() || at("accept").dataset.own === "1";
    at("save").classList.toggle("primary", changed());
    at("accept").classList.toggle("primary", !changed());
  }

  function showPieces(pieces) {
    const parts = pieces.map(([kind, words]) => {
      if (kind === "same") return document.createTextNode(words);
      const part = document.createElement(kind);
      part.textContent = words;
      return part;
    });
    at("pieces").replaceChildren(...parts);
    at("changes").hidden = pieces.every(([kind]) => kind === "same");
  }

  function showWarnings(warnings) {
    const lines = warnings.map((words) => {
      const line = document.createElement("li");
      line.textContent = words;
      return line;
    });
    at("warnings").replaceChildren(...lines);
    at("warnings").hidden = lines.length === 0;
  }

  async function saveDraft() {
    timer = 0;
    const typed = text.value;
    try {
      const { status, said } = await send("draft", { text: typed, seen: row.dataset.seen });
      if (status !== 200) return trouble(said.problem);
      trouble(said.newer ? "This row has changed since you opened it. Load the page to see how it stands now; your draft is kept." : "");
      if (text.value !== typed) return; // more was typed meanwhile: what comes next counts
      showPieces(said.pieces);
      showWarnings(said.warnings);
      at("saved").textContent = said.changed ? "Draft saved." : "";
    } catch {
      trouble("The draft was not saved: the server does not answer.");
    }
  }

  if (text && !text.readOnly) {
    text.addEventListener("input", () => {
      showButtons();
      at("saved").textContent = "";
      clearTimeout(timer);
      timer = setTimeout(saveDraft, 450);
    });
    at("accept").dataset.own = at("accept").disabled ? "1" : "";
    at("edit").hidden = false;
    at("edit").addEventListener("click", () => text.focus());
    showButtons();
    // Whoever looks at it keeps the row; a tab that was left open does not.
    let active = true;
    for (const sign of ["keydown", "pointermove", "scroll"]) {
      document.addEventListener(sign, () => (active = true), { passive: true });
    }
    const hold = async () => {
      if (!active) return;
      active = false;
      try {
        const { status, said } = await send("hold", {});
        if (status === 409) trouble(`${said.held} has this row now. Your draft is kept.`);
      } catch {
        trouble("The server does not answer.");
      }
    };
    setInterval(hold, Number(row.dataset.heartbeat) * 1000);
    // Whoever goes to another page gives the row back; a reload keeps it.
    for (const link of document.querySelectorAll(".bar a")) {
      link.addEventListener("click", () => {
        const body = new FormData();
        body.set("csrf", csrf);
        body.set("row", row.dataset.row);
        navigator.sendBeacon(`${row.dataset.at}/leave`, body);
      });
    }
  }

  document.addEventListener("submit", () => {
    leaving = true;
    clearTimeout(timer);
  });

  // -- the tokens of the answer ---------------------------------------------------------------

  const answer = at("answer");
  if (answer) {
    const tokens = [...answer.children];
    let chosen = -1;
    const choose = (number) => {
      if (tokens[chosen]) tokens[chosen].classList.remove("at");
      chosen = number;
      const token = tokens[chosen];
      at("token").textContent = token ? token.title : "";
      if (token) token.classList.add("at");
    };
    answer.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      choose(Math.min(Math.max(chosen + step, 0), tokens.length - 1));
    });
    answer.addEventListener("mouseover", (event) => choose(tokens.indexOf(event.target)));
    answer.addEventListener("mouseleave", () => choose(-1));
    answer.addEventListener("blur", () => choose(-1));
  }

  // -- keys -------------------------------------------------------------------------------------

  const press = (id) => {
    const button = at(id);
    if (button && !button.disabled) button.click();
  };

  const open = (id, field) => {
    const part = at(id);
    if (!part) return;
    part.open = true;
    (at(field) || part.querySelector("summary")).focus();
  };

  const keys = {
    a: () => press(at("accept") && at("accept").disabled && changed() ? "save" : "accept"),
    e: () => text && text.focus(),
    r: () => open("reject", "why"),
    s: () => press("skip"),
    t: () => open("tag", "tag-name"),
    u: () => press("undo"),
    "?": () => at("help") && (at("help").open = !at("help").open),
  };

  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select");
    if (typing) {
      if (event.key === "Escape") typing.blur();
      if (typing === text && event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        press("save");
      }
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || leaving) return;
    const act = keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
})();
