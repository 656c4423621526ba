//! cairn-chunkserver
