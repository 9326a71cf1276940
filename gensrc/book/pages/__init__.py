"""The pages of the site that are made from data: each module has `page(root)`, which gives MyST text."""
