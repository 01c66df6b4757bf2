// A stand-in with the interface that the search form uses: execute gives 52 random
// base-36 characters after a few milliseconds, or at once where the server says so. As on
// the real site, nobody verifies the value; only its presence and length count.
var site_key_sunat = 'replica';
var grecaptcha = (function () {
  var LENGTH = 52, ALPHABET = '0123456789abcdefghijklmnopqrstuvwxyz';
  function token() {
    var out = '', i;
    for (i = 0; i < LENGTH; i++) { out += ALPHABET.charAt(Math.floor(Math.random() * ALPHABET.length)); }
    return out;
  }
  return {
    ready: function (callback) { callback(); },
    execute: function () {
      if (window.replicaTokenAtOnce) { return Promise.resolve(token()); }
      return new Promise(function (resolve) {
        setTimeout(function () { resolve(token()); }, 2 + Math.random() * 10);
      });
    }
  };
})();
