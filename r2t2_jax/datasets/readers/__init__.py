"""One reader a file: which official files a set has, where they come from, under which licence, and how they read."""
