//! Drives: workers, shards, the due wheel, lanes, the recorder.
