"""The web page and the HTTP API of `mmsearch serve`; needs the extra `serve`."""
