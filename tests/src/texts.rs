//! Pieces of books that several tests add to the shipped ones.

/// By this every interval of the resolution is divided, as only a sandbox's clock allows: ten minutes become two seconds.
pub const HURRIED: &str = "[resolution]\ntime_scale = 300\n";

/// For the end of `carriers/medina.toml`: the mock carrier answers questions about attempts by our key.
pub const INQUIRY: &str = r#"
[proof.inquiry]
by = "our_ref"
settle = "10m"
agree = 2
spacing = "60s"

[inquiry]
request = "GET /v1/charge/status/${our_ref}"
keys = { carrier_txn_id = "/id", carrier_code = "/reason" }
echo = { our_ref = "/key", amount = "/amount", amount_as = "minor", currency = "/currency" }
rules = [
  { status = 200, at = "/state", is = "CHARGED", then = "charged" },
  { status = 200, at = "/state", is = "REFUNDED", then = "refunded" },
  { status = 200, all = [{ at = "/state", is = "REFUSED" }, { at = "/reason", is = "no_funds" }], then = "declined:no_funds" },
  { status = 200, at = "/state", is = "WORKING", then = "still_working" },
  { status = 200, at = "/state", is = "NOT_FOUND", then = "not_found" },
]
else = "unknown"

[[example]]
for = "inquiry"
status = 200
body = '{"state":"CHARGED","id":"f-000000000001","key":"${our_ref}","amount":${amount:minor},"currency":"TND"}'
expect = "charged"

[[example]]
for = "inquiry"
op = "refund"
status = 200
body = '{"state":"REFUNDED","id":"f-000000000002","key":"${our_ref}","amount":${amount:minor},"currency":"TND"}'
expect = "refunded"

[[example]]
for = "inquiry"
status = 200
body = '{"state":"NOT_FOUND","key":"${our_ref}"}'
expect = "not_found"
"#;
