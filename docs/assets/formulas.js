// Formulas are found by arithmatex at build time and set here, by the KaTeX beside this file.
for (const node of document.querySelectorAll(".arithmatex")) {
  const tex = node.textContent.trim()
  katex.render(tex.slice(2, -2), node, { displayMode: tex.startsWith("\\["), throwOnError: false })
}
