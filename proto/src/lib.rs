//! Everything two processes of Realm say to each other; no logic.
