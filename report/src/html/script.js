(() => {
  const doc = document, root = doc.documentElement, told = doc.getElementById('told');
  // The switch works without this; here it is remembered.
  const key = 'phase-theme', store = (f) => { try { return f(localStorage); } catch { return null; } };
  const saved = store((s) => s.getItem(key));
  const radio = saved && doc.getElementById('theme-' + saved);
  if (radio) radio.checked = true;
  doc.addEventListener('change', (e) => { if (e.target.name === 'theme') store((s) => s.setItem(key, e.target.value)); });
  // One line at the foot of the window for whatever is pointed at; style alone does it for text, this also for plots.
  root.classList.add('js');
  const show = (e) => { const at = e.target.closest && e.target.closest('[data-t]'); told.textContent = at ? at.dataset.t : ''; };
  for (const kind of ['pointerover', 'focusin', 'click']) doc.addEventListener(kind, show);
  // Paper has no folds, but the card stays on one page: the section on the boundary has its fields again.
  addEventListener('beforeprint', () => doc.querySelectorAll('details').forEach((d) => { d.open = !d.closest('.triggers'); }));
  const unfold = () => { const at = location.hash && doc.getElementById(location.hash.slice(1)); const fold = at && at.closest('details'); if (fold) fold.open = true; };
  addEventListener('hashchange', unfold); unfold();
})();
