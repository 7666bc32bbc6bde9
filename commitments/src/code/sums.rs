//! Sums over rows and over columns of a source, with weights in the extension.
