"""What is learned from: one loader a data set, each in the module of its kind.

    from gensrc.data.images import fashion_mnist, mnist
    from gensrc.data.text import poems, shakespeare

`registry` knows the files behind them: where they lie, their checksums, licences and sources. Importing this package
reads nothing and imports no loader, so that a change in one loader leaves the chapters that use another as they are.
"""
