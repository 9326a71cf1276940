"""The data sets: one loader each, in a module for each kind of data.

    from gensrc.data.images import fashion_mnist, mnist
    from gensrc.data.text import poems, shakespeare

`registry` finds their files and has their checksums, licences and sources. Importing this package reads nothing and
imports no loader, so that a change in one loader does not make chapters stale that use another.
"""
