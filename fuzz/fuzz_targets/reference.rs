//! References, digests and platforms: what is printed is read as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shiplap::digest::Digest;
use shiplap::platform::Platform;
use shiplap::reference::Reference;

fuzz_target!(|text: &str| {
    if let Ok(reference) = Reference::parse(text) {
        let printed = reference.to_string();
        assert_eq!(Reference::parse(&printed).as_ref(), Ok(&reference));
        let familiar = reference.familiar();
        assert_eq!(
            Reference::parse(&familiar).as_ref(),
            Ok(&reference),
            "{familiar}"
        );
        assert_eq!(
            Reference::parse(&familiar).expect("just read").familiar(),
            familiar
        );
        assert!(familiar.len() <= printed.len());
        assert!(reference.tag().is_some() || reference.digest().is_some());
        // Registry and repository end up in URLs and paths.
        for part in reference.repository().split('/') {
            assert!(!matches!(part, "" | "." | ".."));
        }
        let url = |c: char| c.is_ascii_alphanumeric() || "._-/:[]".contains(c);
        assert!(reference.registry().chars().all(url));
        assert!(reference.repository().chars().all(url));
        let pinned = reference.with_digest(Digest::of(b""));
        assert_eq!(Reference::parse(&pinned.to_string()), Ok(pinned));
        let json = serde_json::to_string(&reference).expect("a string");
        assert_eq!(
            serde_json::from_str::<Reference>(&json).ok(),
            Some(reference)
        );
    }
    if let Ok(digest) = Digest::parse(text) {
        assert_eq!(digest.to_string(), text);
        assert!(!text.contains(['/', '\\', '\0']) && !text.contains(".."));
    }
    if let Ok(platform) = Platform::parse(text) {
        let printed = platform.to_string();
        let again = Platform::parse(&printed).expect("what is printed is a platform");
        // The version of the operating system is not for people.
        let shown = Platform {
            os_version: None,
            ..platform.clone()
        };
        assert_eq!(again, shown, "{printed}");
        assert_eq!(platform.clone().normalized(), platform);
        assert_eq!(platform.serves(&platform), Some(0));
    }
});
