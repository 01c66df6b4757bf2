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

  // The tab is not drawn, so no frame ever comes: who waits for one goes on all the same.
  window.requestAnimationFrame = (frame) => setTimeout(() => frame(performance.now()), 16);
  window.cancelAnimationFrame = clearTimeout;

  // A window that a page opens would stay as one more tab with every document.
  window.open = () => null;

  if (window !== window.top || location.protocol === 'about:' || typeof push !== 'function') return;

  // The scripts of an answer say nothing of the number, and each costs the visit time, an
  // endless one all of it: they are put aside as they come, before they run. An answer is
  // told by the name that submitScript gave the tab and by its referrer, which a document
  // that the tab was sent to has not: the form needs its scripts.
  const aside = new Map(); // scripts and the types that they had
  const putAside = new MutationObserver((changes) => {
    for (const {addedNodes} of changes) {
      for (const node of addedNodes) {
        if (node.localName !== 'script') continue;
        aside.set(node, node.getAttribute('type'));
        node.setAttribute('type', 'text/plain');
      }
    }
  });
  if (window.name === ASKED && document.referrer) putAside.observe(document, {childList: true, subtree: true});
  window.name = '';

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

  // Sends what the form would send, without leaving it, and pushes the answer's bytes, each
  // as the character of its own that x-user-defined gives it. fetch is the browser's: pages
  // replace theirs to measure. No other site is asked, whatever the answer says.
  const {fetch} = window;
  const send = async (form) => {
    const told = (url, status, html) => push(JSON.stringify({kind: 'fetched', doc, url, status, html}));
    try {
      const answer = await fetch(form.action, {
        method: 'POST',
        mode: 'same-origin',
        headers: {'Content-Type': form.enctype, Accept: 'text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8'},
        body: String(new URLSearchParams(new FormData(form))),
      });
      const decoder = new TextDecoder('x-user-defined');
      let bytes = '';
      for (const reader = answer.body.getReader(); bytes.length <= MAXBYTES;) {
        const {done, value} = await reader.read();
        if (done) return told(answer.url, answer.status, bytes);
        bytes += decoder.decode(value, {stream: true});
      }
      told(answer.url, answer.status, bytes); // the parser refuses it
    } catch (error) {
      push(JSON.stringify({kind: 'failed', doc, html: String(error)}));
    }
  };

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
    putAside.disconnect();
    for (const [node, type] of aside) {
      if (type === null) node.removeAttribute('type'); else node.setAttribute('type', type);
    }
    const field = document.getElementById('txtRuc');
    if (field && document.getElementById('btnAceptar')) {
      // The page's own script makes the token, checks the number and fills in the form.
      if (FETCH && field.form) field.form.submit = () => { send(field.form); };
      // The page empties the field in its ready handlers, and what is typed before
      // that is lost. They were registered before this one and so run before it.
      addEventListener('load', () => {
        const done = () => report('form', field.form ? field.form.action : '');
        if (window.jQuery) window.jQuery(done); else done();
      });
      return;
    }
    const list = document.querySelector('.list-group');
    if (list) report('result', excerpt(list));
    else report('other', document.documentElement.outerHTML.slice(0, LIMIT));
    // It has said what it is, and need not be laid out for whatever comes after this.
    document.documentElement.style.display = 'none';
  });
})();
