// Light or dark: as the system says, or as was chosen last.

function theme() {
  const key = "top_tvm theme";
  const root = document.documentElement;
  const button = byId("theme");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  // A page from a file may not be allowed to remember anything.
  let stored = null;
  try {
    stored = localStorage.getItem(key);
  } catch {
    stored = null;
  }
  const set = (name) => {
    root.dataset.theme = name;
    button.textContent = name === "dark" ? "light theme" : "dark theme";
  };
  set(stored ?? (dark.matches ? "dark" : "light"));
  dark.addEventListener("change", () => set(dark.matches ? "dark" : "light"));
  button.addEventListener("click", () => {
    set(root.dataset.theme === "dark" ? "light" : "dark");
    try {
      localStorage.setItem(key, root.dataset.theme);
    } catch {
      // Nothing to do: the choice holds until the page is closed.
    }
  });
}
