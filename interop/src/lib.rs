//! Real parts for tests: where they are, how they are started and stopped.
//! Above: `tests/it`. Below: `parts/*.sh`.
