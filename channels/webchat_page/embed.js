/* A button on any web page that opens the consultation chat:
   <script src="https://desk.example.org/chat/embed.js" data-lang="vi" async></script>
   Without data-lang it follows the page's language, then the browser's. */
(function () {
  'use strict';

  const script = document.currentScript || document.querySelector('script[src*="/chat/embed.js"]');
  if (!script || window.deskChat) return;
  window.deskChat = true;
  const chat = script.src.replace(/\/embed\.js.*$/, '');
  const origin = /^\w+:\/\/[^/]+/.exec(chat)[0];

  // Language: [open the consultation chat, close]
  const words = {
    en: ['Open the consultation chat', 'Close'],
    ja: ['相談チャットを開く', '閉じる'],
    zh: ['打开咨询聊天', '关闭'],
    pt: ['Abrir o chat de consulta', 'Fechar'],
    es: ['Abrir el chat de consultas', 'Cerrar'],
    vi: ['Mở chat tư vấn', 'Đóng'],
    id: ['Buka chat konsultasi', 'Tutup'],
    my: ['အကြံပေး chat ဖွင့်မယ်', 'ပိတ်မယ်'],
    tl: ['Buksan ang consultation chat', 'Isara'],
    ne: ['परामर्श च्याट खोल्नुहोस्', 'बन्द गर्नुहोस्']
  };
  const known = (code) => {
    const short = String(code).toLowerCase().split(/[-_]/)[0].replace('fil', 'tl');
    return words[short] ? short : '';
  };
  const asked = script.getAttribute('data-lang');
  const language = known(asked) || known(document.documentElement.lang) || known(navigator.language) || 'en';

  const css = `
    :host { all: initial; }
    .desk-chat * { box-sizing: border-box; font: 600 14px/1.4 system-ui, sans-serif; }
    .desk-chat [hidden] { display: none; }
    .desk-chat button { margin: 0; border: 0; color: #fff; background: #0e655a; cursor: pointer; }
    .desk-chat button:focus { outline: 3px solid #fff; outline-offset: -6px; }
    .desk-chat svg { display: block; fill: none; stroke: #fff; stroke-width: 2; stroke-linecap: round; stroke-linejoin: round; }
    .open { position: fixed; z-index: 2147483000; right: 16px; bottom: 16px; bottom: calc(16px + env(safe-area-inset-bottom));
      width: 60px; height: 60px; padding: 15px; border-radius: 30px; box-shadow: 0 0 0 2px #fff, 0 3px 12px rgba(0,0,0,.5); }
    .new { position: absolute; top: -4px; right: -4px; min-width: 24px; padding: 2px 7px; border-radius: 12px; background: #a3321f; }
    .panel { position: fixed; z-index: 2147483001; right: 16px; bottom: 16px; width: 400px; height: 640px; max-height: calc(100% - 32px);
      display: flex; flex-direction: column; overflow: hidden; border-radius: 16px; background: #0e655a; box-shadow: 0 6px 28px rgba(0,0,0,.4); }
    .close { flex: none; align-self: flex-end; width: 56px; height: 48px; padding: 10px 14px; border-radius: 16px; }
    iframe { flex: 1 1 0; width: 100%; min-height: 0; border: 0; }
    @media (max-width: 599px), (max-height: 500px) {
      .panel { top: 0; right: 0; bottom: 0; left: 0; width: 100%; height: 100%; max-height: none; border-radius: 0; padding-top: env(safe-area-inset-top); }
    }
    @media print { .desk-chat { display: none; } }`;

  const make = (name, parent, className) => {
    const node = document.createElement(name);
    node.className = className || '';
    parent.appendChild(node);
    return node;
  };
  const button = (parent, className, path, act) => {
    const node = make('button', parent, className);
    node.type = 'button';
    node.innerHTML = '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="' + path + '"/></svg>';
    node.onclick = act;
    return node;
  };

  const start = () => {
    const host = make('div', document.body);
    const shadow = host.attachShadow ? host.attachShadow({ mode: 'open' }) : host;
    try { // also allowed where the page's policy forbids inline styles
      const sheet = new CSSStyleSheet();
      sheet.replaceSync(css);
      shadow.adoptedStyleSheets = [sheet];
    } catch (error) { // an older browser; without a shadow tree the rules keep to our own box
      make('style', shadow).textContent = shadow === host ? css.replace(/^    (?=\.(open|new|panel|close)|iframe)/gm, '.desk-chat ') : css;
    }
    const box = make('div', shadow, 'desk-chat');
    const open = button(box, 'open', 'M3 4h18v13h-9l-5 4v-4H3z', () => show(true));
    const badge = make('span', open, 'new');
    const panel = make('div', box, 'panel');
    const close = button(panel, 'close', 'M6 6l12 12M18 6 6 18', () => show(false));
    const rest = make('div', panel); // brings the focus back from behind the frame
    let frame = null;
    let overflow = '';

    const label = (code) => {
      box.lang = code;
      [open, panel, frame, close].forEach((node) => {
        if (!node) return;
        node.title = words[code][node === close ? 1 : 0];
        node.setAttribute('aria-label', node.title);
      });
      panel.removeAttribute('title');
    };
    const count = (unread) => {
      badge.hidden = !(unread > 0);
      badge.textContent = badge.hidden ? '' : String(Math.min(unread, 99));
    };
    const tell = () => frame.contentWindow.postMessage({ deskChat: 'shown', value: !panel.hidden }, origin);
    const full = () => panel.offsetWidth >= window.innerWidth;
    const show = (yes) => {
      if (yes !== panel.hidden) return;
      if (!frame) {
        frame = document.createElement('iframe');
        frame.src = chat + '?lang=' + encodeURIComponent(asked || language);
        panel.insertBefore(frame, rest);
        label(box.lang);
      }
      panel.hidden = !yes;
      open.hidden = yes;
      panel.setAttribute('aria-modal', String(yes && full()));
      const page = document.documentElement.style; // nothing scrolls behind a full screen
      if (yes) overflow = page.overflow;
      page.overflow = yes && full() ? 'hidden' : overflow;
      tell();
      (yes ? frame : open).focus();
    };

    panel.hidden = true;
    panel.setAttribute('role', 'dialog');
    count(0);
    label(language);
    rest.tabIndex = 0;
    rest.onfocus = () => close.focus();
    document.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') show(false);
    });
    window.addEventListener('message', (event) => {
      if (!frame || event.source !== frame.contentWindow || event.origin !== origin) return;
      const value = event.data.value;
      const what = event.data.deskChat;
      if (what === 'ready') tell();
      if (what === 'unread') count(value);
      if (what === 'language' && known(value)) label(known(value));
      if (what === 'escape' || what === 'left') show(false);
      if (what === 'left') { // the conversation is cleared: take the page away as well
        panel.removeChild(frame);
        frame = null;
        count(0);
      }
    });
  };

  if (document.body) start();
  else document.addEventListener('DOMContentLoaded', start);
})();
