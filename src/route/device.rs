//! What kind of device asks, as far as it says so itself.
//!
//! Good enough to choose a rendering, never to decide what somebody may do: every byte of it is the client's claim. Client hints
//! (RFC 8942; User-Agent Client Hints) count before the User-Agent string, and a crawler's name before both. Deliberately no table of
//! devices: such tables are stale within a month. Known to be wrong: an iPad's Safari calls itself a Macintosh by default and counts
//! as `desktop`.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::head::RequestHead;

/// A class of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// A phone.
    Mobile,
    /// A tablet, or an Android device that does not call itself mobile.
    Tablet,
    /// Everything else. Command-line and library clients (`curl`, an app's HTTP library) belong here too: they ask for what a
    /// person or a program wants, they do not crawl, and they get the answer that is not special.
    Desktop,
    /// A crawler that says so: a name ending in `bot`, `crawler` or `spider`, or the customary `+http` address in its User-Agent.
    Bot,
}

/// The fields that it is told by.
pub(super) const FIELDS: [&str; 3] = ["sec-ch-ua-mobile", "sec-ch-ua-platform", "user-agent"];

/// How much of a User-Agent is looked at, in bytes. Real ones say what they are within 300.
const LONGEST_AGENT: usize = 512;

impl Device {
    pub(super) fn name(self) -> &'static str {
        match self {
            Device::Mobile => "mobile",
            Device::Tablet => "tablet",
            Device::Desktop => "desktop",
            Device::Bot => "bot",
        }
    }

    /// The class of the device that sent this request.
    pub fn of(head: &RequestHead) -> Device {
        let agent = head.header("user-agent").unwrap_or_default();
        let agent = agent.get(..LONGEST_AGENT).unwrap_or(agent);
        if is_bot(agent) {
            return Device::Bot;
        }
        let platform = head.header("sec-ch-ua-platform").unwrap_or_default();
        match head.header("sec-ch-ua-mobile") {
            Some(b"?1") => Device::Mobile,
            Some(b"?0") if platform.eq_ignore_ascii_case(b"\"android\"") => Device::Tablet,
            Some(b"?0") if !platform.is_empty() => Device::Desktop,
            _ => of_agent(agent),
        }
    }
}

fn is_bot(agent: &[u8]) -> bool {
    // "CUBOT" makes phones.
    let named = agent.split(|byte| !byte.is_ascii_alphanumeric()).any(|word| {
        ends_with(word, b"bot") && !word.eq_ignore_ascii_case(b"cubot")
            || ends_with(word, b"crawler")
            || ends_with(word, b"spider")
    });
    named || contains(agent, b"+http")
}

fn of_agent(agent: &[u8]) -> Device {
    let has = |word: &[u8]| contains(agent, word);
    if has(b"ipad") || has(b"tablet") || has(b"kindle") || has(b"silk/") || has(b"android") && !has(b"mobi") {
        Device::Tablet
    } else if has(b"mobi") || has(b"iphone") || has(b"ipod") || has(b"windows phone") || has(b"opera mini") {
        Device::Mobile
    } else {
        Device::Desktop
    }
}

fn ends_with(word: &[u8], end: &[u8]) -> bool {
    word.len().checked_sub(end.len()).and_then(|at| word.get(at..)).is_some_and(|tail| tail.eq_ignore_ascii_case(end))
}

/// Whether `text` holds `word` in whatever case. `word` is lower case and not empty.
fn contains(text: &[u8], word: &[u8]) -> bool {
    let Some((&first, _)) = word.split_first() else { return true };
    memchr::memchr2_iter(first, first.to_ascii_uppercase(), text)
        .any(|at| text.get(at..at + word.len()).is_some_and(|here| here.eq_ignore_ascii_case(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[(&str, &str)]) -> Device {
        Device::of(&RequestHead::build("GET", "/", headers))
    }

    #[test]
    fn by_user_agent() {
        for (agent, device) in [
            ("", Device::Desktop),
            ("curl/8.5.0", Device::Desktop),
            ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/120.0 Safari/537.36", Device::Desktop),
            ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) Version/17.0 Mobile/15E148", Device::Mobile),
            ("Mozilla/5.0 (Linux; Android 14; Pixel 8) Chrome/120.0 Mobile Safari/537.36", Device::Mobile),
            ("Mozilla/5.0 (Linux; Android 14; SM-X910) Chrome/120.0 Safari/537.36", Device::Tablet),
            ("Mozilla/5.0 (iPad; CPU OS 12_2 like Mac OS X) Mobile/15E148", Device::Tablet),
            ("Mozilla/5.0 (Android 14; Tablet; rv:120.0) Gecko/120.0 Firefox/120.0", Device::Tablet),
            ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", Device::Bot),
            ("Mozilla/5.0 (Linux; Android 6.0.1) Mobile (compatible; bingbot/2.0)", Device::Bot),
            ("Baiduspider", Device::Bot),
            ("AdsBot-Google (+http://www.google.com/adsbot.html)", Device::Bot),
            ("Mozilla/5.0 (Linux; Android 10; CUBOT P40) Mobile Safari/537.36", Device::Mobile),
            ("Robotics/1.0", Device::Desktop),
        ] {
            assert_eq!(of(&[("User-Agent", agent)]), device, "{agent}");
        }
    }

    #[test]
    fn hints_count_before_the_agent_and_bots_before_hints() {
        let desktop = ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64)");
        assert_eq!(of(&[desktop, ("Sec-CH-UA-Mobile", "?1")]), Device::Mobile);
        assert_eq!(of(&[desktop, ("Sec-CH-UA-Mobile", "?0"), ("Sec-CH-UA-Platform", "\"Android\"")]), Device::Tablet);
        assert_eq!(
            of(&[("User-Agent", "x Mobile"), ("Sec-CH-UA-Mobile", "?0"), ("Sec-CH-UA-Platform", "\"Linux\"")]),
            Device::Desktop
        );
        assert_eq!(of(&[("User-Agent", "GPTBot/1.0"), ("Sec-CH-UA-Mobile", "?1")]), Device::Bot);
        assert_eq!(of(&[desktop, ("Sec-CH-UA-Mobile", "garbage")]), Device::Desktop);
    }

    #[test]
    fn looks_at_no_more_than_the_bound() {
        let long = format!("{}Mobile", " ".repeat(LONGEST_AGENT));
        assert_eq!(of(&[("User-Agent", &long)]), Device::Desktop);
    }
}
