// Sources of models at the limits of what is read.
//
// The planner reads them and so does the store, and neither may depend on the other: what one lets
// through the other must not refuse for its length.

/// Sources just within a limit and just beyond it, and whether each is good.
fn sources_at_limits() -> [(String, bool); 28] {
    let long = |len: usize| "a".repeat(len);
    let repository = |len: usize| format!("oci://r.example/{}", long(len));
    [
        (format!("hf://{}/r/p", long(128)), true),
        (format!("hf://{}/r/p", long(129)), false),
        (format!("hf://o/{}/p", long(129)), false),
        (format!("hf://o/r@{}/p", long(129)), false),
        (format!("hf://o/r/{}", long(1024)), true),
        (format!("hf://o/r/{}", long(1025)), false),
        (r"hf://o/r/a\b".to_owned(), false),
        (format!("s3://bucket/{}", long(1024)), true),
        (format!("s3://bucket/{}", long(1025)), false),
        (r"s3://bucket/a\b".to_owned(), false),
        (format!("s3://bucket/a?region={}", long(64)), true),
        (format!("s3://bucket/a?region={}", long(65)), false),
        ("s3://bucket/a?endpoint=https://:::".to_owned(), false),
        (repository(255), true),
        (repository(256), false),
        (format!("oci://r.example/m#{}", long(255)), true),
        (format!("oci://r.example/m#{}", long(256)), false),
        ("oci://:::/m".to_owned(), false),
        ("oci://r.example:99999/m".to_owned(), false),
        ("https://:::/a".to_owned(), false),
        ("https://[::1/a".to_owned(), false),
        ("https://1.2.3.256/a".to_owned(), false),
        ("https://a.example:99999/a".to_owned(), false),
        ("https://[2001:db8::1]:8443/a".to_owned(), true),
        (format!("pip://{}==1/a", long(128)), true),
        (format!("pip://{}==1/a", long(129)), false),
        (format!("pip://a==1/{}", long(1025)), false),
        ("file:///a?b".to_owned(), false),
    ]
}
