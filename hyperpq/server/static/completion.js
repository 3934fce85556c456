// Completion of conditions: names of columns, comparisons and values.

const COMPARISONS = ["==", "!=", "<", "<=", ">", ">="];
const MOST = 60;

/** What can come next in a condition up to the cursor: where it begins, and its choices. */
export function suggestions(text, columns) {
  const value = /([A-Za-z_]\w*)\s*(==|!=|<=|>=|<|>)\s*(['"]?)([^'"]*)$/.exec(text);
  if (value) {
    const column = columns.find(({ name }) => name === value[1]);
    const start = text.length - value[4].length - value[3].length;
    const typed = value[4].toLowerCase();
    const found = (column?.values ?? []).filter((one) => one.toLowerCase().includes(typed));
    return { start, choices: found.slice(0, MOST).map((one) => ({ text: quoted(one), note: "" })) };
  }
  const after = /(?:^|[\s(])([A-Za-z_]\w*)\s+([=!<>]*)$/.exec(text);
  const named = after && columns.find(({ name }) => name === after[1]);
  if (named) {
    const words = named.type === "text" ? COMPARISONS.slice(0, 2) : COMPARISONS;
    const found = words.filter((word) => word.startsWith(after[2]));
    const start = text.length - after[2].length;
    return { start, choices: found.map((text) => ({ text: `${text} `, note: "" })) };
  }
  // Behind a value comes another condition.
  if (/(['"]|\d|\))\s+\w*$/.test(text)) {
    const [word] = /\w*$/.exec(text);
    const found = ["and", "or"].filter((one) => one.startsWith(word));
    return {
      start: text.length - word.length,
      choices: found.map((one) => ({ text: `${one} `, note: "" })),
    };
  }
  const word = /(?:^|[\s(])([A-Za-z_]\w*)?$/.exec(text);
  if (!word) return { start: text.length, choices: [] };
  const typed = word[1] ?? "";
  const found = columns.filter(({ name }) => name.startsWith(typed));
  return {
    start: text.length - typed.length,
    choices: found.map(({ name, type }) => ({ text: `${name} `, note: type })),
  };
}

function quoted(value) {
  const mark = value.includes("'") ? '"' : "'";
  return `${mark}${value.replaceAll("\\", "\\\\").replaceAll(mark, `\\${mark}`)}${mark} `;
}

/** Complete in a combobox; `columns()` are those of the index. */
export function completeIn(input, list, columns) {
  let found = { start: 0, choices: [] };
  let chosen = -1;

  function close() {
    list.hidden = true;
    chosen = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  }

  function open() {
    // Only at the end of a word of the condition, and not within one.
    const cursor = input.selectionStart;
    found = suggestions(input.value.slice(0, cursor), columns());
    if (!found.choices.length) return close();
    list.replaceChildren(
      ...found.choices.map(({ text, note }, number) => {
        const item = document.createElement("li");
        item.id = `suggestion-${number}`;
        item.setAttribute("role", "option");
        item.setAttribute("aria-selected", "false");
        item.textContent = text.trim();
        if (note) {
          const kind = document.createElement("span");
          kind.textContent = note;
          item.append(" ", kind);
        }
        return item;
      }),
    );
    list.hidden = false;
    list.scrollTop = 0;
    chosen = -1;
    input.setAttribute("aria-expanded", "true");
    input.removeAttribute("aria-activedescendant");
  }

  function choose(number) {
    list.children[chosen]?.setAttribute("aria-selected", "false");
    chosen = (number + list.children.length) % list.children.length;
    const item = list.children[chosen];
    item.setAttribute("aria-selected", "true");
    item.scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", item.id);
  }

  function take(number) {
    const rest = input.value.slice(input.selectionStart).trimStart();
    const before = input.value.slice(0, found.start) + found.choices[number].text;
    input.value = before + rest;
    input.setSelectionRange(before.length, before.length);
    open();
  }

  input.addEventListener("input", open);
  input.addEventListener("focus", open);
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    const isOpen = !list.hidden;
    if (event.key === "ArrowDown") isOpen ? choose(chosen + 1) : open();
    else if (event.key === "ArrowUp" && isOpen) choose(chosen < 0 ? -1 : chosen - 1);
    else if (event.key === "Escape" && isOpen) close();
    else if (event.key === "Enter" && isOpen && chosen >= 0) take(chosen);
    else {
      if (event.key === "Enter") close();
      return;
    }
    event.preventDefault();
  });
  // Before the input loses the focus.
  list.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    const item = event.target.closest("li");
    if (item) take([...list.children].indexOf(item));
  });
}
