"""The codecs: which bits go over the wire."""
