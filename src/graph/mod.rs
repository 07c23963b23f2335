//! Instructions and base configs → a graph of steps. Pure.
