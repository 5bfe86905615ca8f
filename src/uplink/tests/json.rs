//! OTLP/HTTP in its other dress: JSON, and every compression there is.

use super::world::{config, run};
use crate::base::Clock;
use crate::otlp::{PIECE, Signal, from_json, to_json};
use crate::testing::far_end::{FarEnd, Script};
use crate::testing::numbered::{Numbered, Source};
use crate::uplink::config::{Format, OtlpHttpConfig};
use crate::uplink::otlp_http::OtlpHttp;
use crate::uplink::pack::{Encoding, LEVEL, Packer};
use crate::uplink::transport::{Parcel, Transport as _};
use crate::uplink::verdict::Verdict;
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

/// Goal: in either format and every compression the far end reads what was put in, and is told how to.
/// Method: it inflates by other libraries than the agent packs with, and reads the JSON back.
#[test]
fn every_format_and_compression_arrives_as_it_was() {
    run(async {
        let far_end = FarEnd::start(Script::new()).expect("a port");
        for format in [Format::Proto, Format::Json] {
            let config = OtlpHttpConfig { format, ..config(&far_end.endpoint()) };
            let client = OtlpHttp::new(&config, 4, Clock::system()).expect("a client");
            for (encoding, name) in [
                (Encoding::Identity, None),
                (Encoding::Gzip, Some("gzip")),
                (Encoding::Zlib, Some("zlib")),
                (Encoding::Deflate, Some("deflate")),
                (Encoding::Snappy, Some("snappy")),
                (Encoding::Zstd, Some("zstd")),
            ] {
                for signal in Signal::ALL {
                    let raw: Bytes = Numbered::new(signal, Source(1)).request(300).bytes.into();
                    let body = Packer::new(encoding, LEVEL).pack(&raw);
                    let verdict = client.send(Parcel { signal, body, upload_id: "x".to_owned(), origin: None }).await;
                    assert!(matches!(verdict, Verdict::Accepted { oddity: None, .. }), "{encoding:?}: {verdict:?}");
                    let seen = far_end.seen().pop().expect("it came");
                    let (kind, arrived) = match format {
                        Format::Proto => ("application/x-protobuf", xxh3_64(&raw)),
                        Format::Json => {
                            let text = to_json(signal, &raw).expect("valid");
                            assert!(text.len() > 2 * PIECE, "it goes in several pieces");
                            ("application/json", xxh3_64(&from_json(signal, text.as_bytes()).expect("valid")))
                        }
                    };
                    assert_eq!((seen.digest, seen.items), (arrived, 300), "{signal} {encoding:?}");
                    assert_eq!(seen.header("content-type"), Some(kind));
                    assert_eq!(seen.header("content-encoding"), name);
                }
            }
        }
    });
}

/// Goal: what cannot be written as JSON is a matter of the upload, and nothing panics.
#[test]
fn what_is_no_request_is_no_json() {
    run(async {
        let far_end = FarEnd::start(Script::new()).expect("a port");
        let config = OtlpHttpConfig { format: Format::Json, ..config(&far_end.endpoint()) };
        let client = OtlpHttp::new(&config, 4, Clock::system()).expect("a client");
        let body = Packer::new(Encoding::Gzip, LEVEL).pack(&Bytes::from_static(b"\x0a\xff\xff"));
        let verdict = client.send(Parcel { signal: Signal::Logs, body, upload_id: "x".to_owned(), origin: None }).await;
        assert!(matches!(verdict, Verdict::Split { too_large: false, .. }), "{verdict:?}");
        assert_eq!(far_end.seen().len(), 0);
    });
}
