//! cairn-master
