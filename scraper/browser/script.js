// Runs first in every document of a tab and pushes what that document is. It reports
// and decides nothing: what a page means is read from its HTML elsewhere.
(() => {
  const push = window[BINDING];
  delete window[BINDING]; // the page's own scripts have no use for it

  // A native dialog freezes the tab until it is answered. One that opens while the tab is
  // already on its way elsewhere cannot be answered any more: the navigation never ends,
  // and closing such a tab was seen to take the whole browser along. So none opens.
  let said = () => {};
  window.alert = (text) => said(text);
  window.confirm = (text) => { said(text); return true; };
  window.prompt = (text, value) => { said(text); return value || ''; };

  // A window that a page opens would stay as one more tab with every document.
  window.open = () => null;

  if (window !== window.top || location.protocol === 'about:' || typeof push !== 'function') return;

  const LIMIT = 64 * 1024; // of the HTML of a page that is not a result, in characters
  const doc = Math.random().toString(36).slice(2) + Date.now().toString(36); // names this document

  const report = (kind, html) => {
    const navigation = performance.getEntriesByType('navigation')[0];
    push(JSON.stringify({
      kind, doc, html,
      url: location.href,
      status: (navigation && navigation.responseStatus) || 0,
    }));
  };
  said = (text) => report('dialog', String(text));

  const escaped = (text) => text.replace(/&/g, '&amp;').replace(/</g, '&lt;');

  // The panel with the rows and the line that closes it, in a document of its own with
  // the page's title and, where the page got that far, its footer.
  const excerpt = (list) => {
    const panel = list.closest('.panel') || list;
    const footer = document.querySelector('footer');
    return '<!DOCTYPE html><html lang="es"><head><title>' + escaped(document.title) + '</title></head>' +
      '<body><div class="container">' + panel.outerHTML + (footer ? footer.outerHTML : '') + '</div></body></html>';
  };

  document.addEventListener('DOMContentLoaded', () => {
    if (document.getElementById('txtRuc') && document.getElementById('btnAceptar')) {
      // The page empties the field in its ready handlers, and what is typed before
      // that is lost. They were registered before this one and so run before it.
      addEventListener('load', () => {
        const done = () => report('form', '');
        if (window.jQuery) window.jQuery(done); else done();
      });
      return;
    }
    const list = document.querySelector('.list-group');
    if (list) report('result', excerpt(list));
    else report('other', document.documentElement.outerHTML.slice(0, LIMIT));
  });
})();
