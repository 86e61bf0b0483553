//! Compares pictures.
use crate::Done;
use std::io::BufReader;

/// Compares our picture (PNG, RGB) with QEMU's (PPM: "P6", width, height, 255, RGB).
pub(crate) fn same_picture(png: &str, ppm: &str) -> Done {
    let mut reader = png::Decoder::new(BufReader::new(std::fs::File::open(png)?)).read_info()?;
    let mut ours = vec![0; reader.output_buffer_size().ok_or("the picture is too large")?];
    let info = reader.next_frame(&mut ours)?;
    ours.truncate(info.buffer_size());
    let theirs = std::fs::read(ppm)?;
    let mut rest = theirs.as_slice();
    let mut header = Vec::new();
    while header.len() < 4 {
        let end = rest.iter().position(u8::is_ascii_whitespace).ok_or("no PPM")?;
        header.push(String::from_utf8_lossy(&rest[..end]).into_owned());
        rest = &rest[end + 1..];
    }
    let wanted = ["P6".to_owned(), info.width.to_string(), info.height.to_string(), "255".to_owned()];
    if header != wanted || info.color_type != png::ColorType::Rgb {
        return Err(format!("{ppm} is {header:?}, {png} {wanted:?}").into());
    }
    let different = ours.chunks(3).zip(rest.chunks(3)).filter(|(a, b)| a != b).count();
    if ours.len() != rest.len() || different != 0 {
        return Err(format!("{different} of {} pixels are different", ours.len() / 3).into());
    }
    Ok(())
}
